"""The learner behind ``fix ideal ... learn HOST:PORT``: LAMMPS moves the atoms, this side labels and learns.

`messages.py` says what is sent, `connections.py` who may send it, `served_run.py` what is made of it.
"""
