"""Trackers that runs are sent to, one file per tool; ``study.trackers.TRACKERS`` lists them."""
