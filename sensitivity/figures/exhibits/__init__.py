"""The exhibits, a file each or a small family: what each computes, draws, tabulates and says."""
