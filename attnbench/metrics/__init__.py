"""What is measured, as functions of images or of features; `attnbench.evaluate` says on which."""
