"""What a run shows of itself: its log, its figures, its page."""
