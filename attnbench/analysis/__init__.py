"""The paper's analyses, for any module: gradients of its branches, spectra of its features, its attention."""
