"""The exhibits, one module per exhibit or small family: what each computes, draws, tabulates and notes."""
