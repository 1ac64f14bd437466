"""The commands: ``main`` declares them, ``display`` shows progress and tables, ``running`` runs a study."""
