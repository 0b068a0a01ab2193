"""Boxes, their matching, sampling and suppression, and heads that use them.

One algorithm a file. Unless a docstring says otherwise, a function takes one
image (`jax.vmap` for a batch), boxes are x1 y1 x2 y2 in continuous pixels of
the canvas (a width is x2 - x1), arithmetic is float32 whatever the dtype of the
network, and what has no fixed number is padded, with `valid` beside it. What
becomes of detections on the host (`pasting`, `detected`, `drawing`, `rle`) is
NumPy, in pixels of the picture.
"""
