"""What one does with a finished model; each folder is one such thing.

This module imports nothing: what is exported also runs where torch is not installed.
"""
