"""The weightings, one in each file; this namespace is their registry.

A rule raises a ValueError when it is made with numbers outside the range that
its docstring gives. Vectors whose length is not K are refused when the rule is
traced. A preference is a vector of finite numbers at least 0, not all 0.
"""

from mimo_jax import _exports
from mimo_jax.weightings._aligned_mtl import aligned_mtl as aligned_mtl
from mimo_jax.weightings._cagrad import cagrad as cagrad
from mimo_jax.weightings._config import config as config
from mimo_jax.weightings._constant import constant as constant
from mimo_jax.weightings._cosmos import cosmos as cosmos
from mimo_jax.weightings._cr_mogm import cr_mogm as cr_mogm
from mimo_jax.weightings._db_mtl import db_mtl as db_mtl
from mimo_jax.weightings._dualproj import dualproj as dualproj
from mimo_jax.weightings._dwa import dwa as dwa
from mimo_jax.weightings._excess_mtl import excess_mtl as excess_mtl
from mimo_jax.weightings._fairgrad import fairgrad as fairgrad
from mimo_jax.weightings._famo import famo as famo
from mimo_jax.weightings._fused_only import fused_only as fused_only
from mimo_jax.weightings._geometric_mean import geometric_mean as geometric_mean
from mimo_jax.weightings._graddrop import graddrop as graddrop
from mimo_jax.weightings._gradnorm import gradnorm as gradnorm
from mimo_jax.weightings._gradvac import gradvac as gradvac
from mimo_jax.weightings._imtl_g import imtl_g as imtl_g
from mimo_jax.weightings._imtl_l import imtl_l as imtl_l
from mimo_jax.weightings._krum import krum as krum
from mimo_jax.weightings._mean import mean as mean
from mimo_jax.weightings._mgda import mgda as mgda
from mimo_jax.weightings._mimo import mimo as mimo
from mimo_jax.weightings._moco import moco as moco
from mimo_jax.weightings._modo import modo as modo
from mimo_jax.weightings._nash_mtl import nash_mtl as nash_mtl
from mimo_jax.weightings._pbi import pbi as pbi
from mimo_jax.weightings._pcd import pcd as pcd
from mimo_jax.weightings._pcgrad import pcgrad as pcgrad
from mimo_jax.weightings._random import random as random
from mimo_jax.weightings._sdmgrad import sdmgrad as sdmgrad
from mimo_jax.weightings._stch import stch as stch
from mimo_jax.weightings._sum import sum as sum
from mimo_jax.weightings._trimmed_mean import trimmed_mean as trimmed_mean
from mimo_jax.weightings._upgrad import upgrad as upgrad
from mimo_jax.weightings._uw import uw as uw

__all__ = _exports.public_names(globals())
