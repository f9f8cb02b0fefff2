"""The loop that ties the stages together: move, score, select, embed, label, learn, go on.

`Engine` runs it, `RunDirectory` holds everything a run writes, and the events of ``events.py`` tell what happens.
"""
