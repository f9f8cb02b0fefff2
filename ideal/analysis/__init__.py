"""What a trajectory says: structure, motion and order, thin over ASE, scipy and scikit-learn.

Every function takes plain frames or arrays and returns a plain record; nothing here knows of run directories.
"""

from __future__ import annotations

from ideal.analysis.msd import mean_squared_displacement, unwrap
from ideal.analysis.order import SteinhardtOrder, steinhardt
from ideal.analysis.rdf import RadialDistribution, radial_distribution
from ideal.analysis.soap_map import FeatureMap, map_features

__all__ = [
    "FeatureMap",
    "RadialDistribution",
    "SteinhardtOrder",
    "map_features",
    "mean_squared_displacement",
    "radial_distribution",
    "steinhardt",
    "unwrap",
]
