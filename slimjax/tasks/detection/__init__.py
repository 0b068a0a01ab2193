"""Detection: scores of boxes, masks and keypoints, and their drawing."""
