"""Files of images, captions and tables: which `datasets` reads, and readers of those that it does not."""
