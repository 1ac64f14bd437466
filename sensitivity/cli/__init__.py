"""The commands: ``main`` declares them; ``running`` runs a study, ``reading`` reads it, ``display`` shows progress."""
