"""Input images: datasets and their layouts, decoding, and making training samples of images.

files --decode once--> uint8 images --(seed, epoch, index)--> target, sketch, warped reference
"""
