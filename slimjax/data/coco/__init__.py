"""Data for detectors: pictures with boxes, masks and keypoints."""
