"""What one does with a finished model or data set: bring it to others."""
