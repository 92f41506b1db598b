"""Images in: data sets and their layouts, decoding once, and what turns an image into a training sample.

files --decode once--> uint8 images --(seed, epoch, index)--> target, sketch, warped reference
"""
