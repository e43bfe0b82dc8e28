"""Translation of captions, with or without images, into more languages by a translation model."""
