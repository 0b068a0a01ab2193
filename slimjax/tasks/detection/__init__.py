"""Detection: losses, and scores of boxes, masks and keypoints."""
