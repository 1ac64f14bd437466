"""Tools that runs are sent to, a file each; ``study.trackers.TRACKERS`` lists them."""
