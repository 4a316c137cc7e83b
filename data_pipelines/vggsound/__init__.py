"""VGGSound: 309 classes of sounds whose source is in the picture."""
