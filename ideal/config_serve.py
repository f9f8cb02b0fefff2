"""The configuration of ``ideal-run serve``: where LAMMPS finds the learner, and what it may send."""

from __future__ import annotations

from pydantic import Field

from ideal.config_section import Section


class ServeConfig(Section):
    """A run whose trajectories are moved by LAMMPS (`fix ideal ... learn`); ``trajectories`` only name the structures
    that the initial data are made of."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. Anyone on the network may try another one than 127.0.0.1, and nothing is "
        "encrypted: an ssh tunnel is the better way.",
    )
    port: int = Field(
        0, ge=0, le=65535, description="Port to listen on; 0: a free one, the same again when the run is resumed."
    )
    max_message: int = Field(64, ge=1, le=1024, description="Largest message that is taken from a client, MiB.")
    clients: int = Field(16, ge=1, le=256, description="Largest number of clients at a time.")
    finish: bool = Field(
        False,
        description="End when every client has said good-bye, with a final training; else the run serves until Ctrl-C.",
    )
