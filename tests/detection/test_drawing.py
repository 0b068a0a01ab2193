"""What is drawn is where it is detected, and in the colour of its class."""

import numpy as np
from pycocotools import mask as tools

from slimjax.detection.detected import Detected
from slimjax.detection.drawing import beside
from slimjax.detection.drawing import class_colour
from slimjax.detection.drawing import draw

GREY = 100


def detected(boxes, labels, *, masks=None, keypoints=None, names=()):
  boxes = np.array(boxes, np.float32).reshape(-1, 4)
  scores = np.linspace(0.9, 0.5, len(boxes)).astype(np.float32)
  return Detected(
    0, boxes, scores, np.array(labels), masks, keypoints, tuple(names)
  )


def picture(height=120, width=160):
  return np.full((height, width, 3), GREY, np.uint8)


def test_a_box_has_the_colour_of_its_class_and_nothing_else_changes():
  image = picture()
  drawn = draw(image, detected([[40, 50, 90, 100]], [2], names=['dog']))
  assert (image == GREY).all()  # the picture that was given is as it was
  colour = class_colour(2)
  for y, x in ((50, 70), (100, 70), (75, 40), (75, 90)):
    assert drawn[y, x].tolist() == list(colour)
  inside, outside = drawn[52:99, 42:89], drawn[103:]
  assert (inside == GREY).all()
  assert (outside == GREY).all()
  # Its name stands above it.
  label = drawn[36:50, 40:100]
  assert (label == colour).all(-1).mean() > 0.3
  assert len(np.unique(label.reshape(-1, 3), axis=0)) > 2
  other = draw(picture(), detected([[40, 50, 90, 100]], [2], names=['owl']))
  assert (other[36:50] != drawn[36:50]).any()
  assert (other[52:] == drawn[52:]).all()


def test_masks_tint_and_the_best_is_on_top():
  first, second = (np.zeros((120, 160), np.uint8) for _ in range(2))
  first[40:80, 40:80], second[60:110, 60:110] = 1, 1
  codes = tuple(tools.encode(np.asfortranarray(m)) for m in (first, second))
  boxes = [[40, 40, 80, 80], [60, 60, 110, 110]]
  drawn = draw(picture(), detected(boxes, [1, 2], masks=codes)).astype(int)
  one, two = (np.array(class_colour(label)) for label in (1, 2))
  np.testing.assert_allclose(drawn[50, 50], GREY + 0.45 * (one - GREY), atol=1)
  np.testing.assert_allclose(
    drawn[100, 100], GREY + 0.45 * (two - GREY), atol=1
  )
  below = GREY + 0.45 * (two - GREY)
  np.testing.assert_allclose(
    drawn[70, 70], below + 0.45 * (one - below), atol=1
  )
  # The better box is drawn over the other one, too.
  assert drawn[70, 80].tolist() == one.tolist()


def test_skeletons_connect_the_points_that_are_sure():
  points = np.array([[[50, 60, 5], [80, 60, 5], [80, 90, -5]]], np.float32)
  drawn = draw(
    picture(),
    detected([[40, 50, 90, 100]], [3], keypoints=points),
    skeleton=((0, 1), (1, 2)),
  )
  assert drawn[60, 65].tolist() == list(class_colour(3))
  assert (drawn[70:98, 78:83] == GREY).all()  # to a point that is not
  assert (drawn[60, 50] == 255).all()
  assert (drawn[60, 80] == 255).all()


def test_a_name_does_not_hide_another():
  """The second would stand where the better one does: it goes into its box."""
  names = ['wolf', 'wolf']
  boxes = [[40, 60, 100, 110], [46, 64, 120, 112]]
  both = draw(picture(), detected(boxes, [1, 2], names=names))
  alone = draw(picture(), detected(boxes[:1], [1], names=names[:1]))
  assert (both[44:58, 40:80] == alone[44:58, 40:80]).all()
  colour = class_colour(2)
  assert (both[66:76, 48:90] == colour).all(-1).mean() > 0.3
  # At the lower edge, too, all of a name is in the picture.
  low = draw(picture(), detected([[40, 118, 60, 119]], [2], names=['wolf']))
  high = draw(picture(), detected([[40, 1, 60, 119]], [2], names=['wolf']))
  assert (low == colour).all(-1).sum() > 300
  assert (high == colour).all(-1).sum() > 300


def test_anything_can_be_drawn_at_the_edges():
  boxes = [[-5, -5, 300, 300], [159, 0, 160, 1], [0, 119, 3, 120]]
  names = ['a name that is longer than the picture is wide', 'ö', '']
  drawn = draw(picture(), detected(boxes, [1, 2, 3], names=names))
  assert drawn.shape == (120, 160, 3)
  nothing = detected(np.zeros((0, 4)), [])
  assert (draw(picture(), nothing) == GREY).all()
  assert draw(picture(3, 2), nothing).shape == (3, 2, 3)


def test_a_small_picture_is_enlarged_with_all_that_is_in_it():
  """Everything is where it was, times the factor, and lines are as thin."""
  mask = np.zeros((12, 16), np.uint8)
  mask[4:8, 4:12] = 1
  found = detected(
    [[4, 4, 12, 8]],
    [2],
    masks=(tools.encode(np.asfortranarray(mask)),),
    keypoints=np.array([[[14, 10, 5]]], np.float32),
  )
  drawn = draw(picture(12, 16), found, shorter=240)
  assert drawn.shape == (240, 320, 3)
  colour = np.array(class_colour(2))
  assert drawn[160, 200].tolist() == colour.tolist()  # the box's lower side
  tinted = GREY + 0.45 * (colour - GREY)
  np.testing.assert_allclose(drawn[150, 200], tinted, atol=1)
  assert (drawn[165, 200] == GREY).all()
  assert (drawn[200, 280] == 255).all()  # the keypoint
  smaller = draw(picture(480, 640), detected([], []), shorter=120)
  assert smaller.shape == (120, 160, 3)


def test_pictures_stand_side_by_side_below_their_titles():
  one, other = picture(), picture() + 100
  whole = beside([one, other], ['at 0.5: box AP 31 %', ''])
  height, width, _ = whole.shape
  above = height - 120
  assert (whole[above:, :160] == one).all()
  assert (whole[above:, width - 160 :] == other).all()
  assert (whole[above:, 160 : width - 160] == 255).all()
  assert (whole[:above, :160] < 128).any()
  assert (whole[:above, 160:] == 255).all()


def test_neighbouring_classes_have_colours_that_differ():
  colours = np.array([class_colour(label) for label in range(1, 81)], float)
  steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
  assert steps.min() > 100
  assert len(np.unique(colours, axis=0)) == 80
