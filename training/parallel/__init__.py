"""Training with one image and its captions in several languages in parallel (Krasner & Lanuzo)."""
