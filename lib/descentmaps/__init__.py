"""Capture what an optimizer does in parameter space, and look at it through diffusion maps.

The modules read as a pipeline: recorder -> trajectory -> distances -> kernels -> diffusion_map -> extension; a recorder
fills a buffer, which goes to memory or to a store on disk, whole or as sketches. Beside the pipeline stand null models
(nulls), estimates of dimension, Hessians and gradient noise (curvature), landscapes with known answers (potentials,
quadratics), the book's data sets and networks (problems), its ledger (claims) and its pictures (figures).
"""

from .claims import Claims
from .diffusion_map import DiffusionMap
from .dimension import kernel_dimension, new_coordinates, participation_ratio
from .distances import squared_distances
from .extension import GeometricHarmonics
from .kernels import bandwidth, gaussian_kernel, kernel_sum_scan
from .recorder import Recorder
from .sketch import CountSketch
from .trajectory import Trajectory

__all__ = [
    "Claims",
    "CountSketch",
    "DiffusionMap",
    "GeometricHarmonics",
    "Recorder",
    "Trajectory",
    "bandwidth",
    "gaussian_kernel",
    "kernel_dimension",
    "kernel_sum_scan",
    "new_coordinates",
    "participation_ratio",
    "squared_distances",
]
__version__ = "0.1.0"
