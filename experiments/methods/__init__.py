"""Ways to train a multi-modal model: one file a method.

The package's namespace is the registry. `config.method.name` is the name of a
module here, and the other keys of `config.method` are arguments of that
module's `make(task, ...)`. Its `SPACE` is what a comparison draws them from.
Its `RECIPES`, if it has any, name recipes and their options; otherwise the
module is one recipe of its own name.
"""

from experiments.methods import agm as agm
from experiments.methods import arl as arl
from experiments.methods import aug as aug
from experiments.methods import cml as cml
from experiments.methods import dgl as dgl
from experiments.methods import ensemble as ensemble
from experiments.methods import g2d as g2d
from experiments.methods import g_blending as g_blending
from experiments.methods import inforeg as inforeg
from experiments.methods import lfm as lfm
from experiments.methods import mcr as mcr
from experiments.methods import midas as midas
from experiments.methods import mla as mla
from experiments.methods import mlb as mlb
from experiments.methods import mmcosine as mmcosine
from experiments.methods import mmpareto as mmpareto
from experiments.methods import ogm as ogm
from experiments.methods import ogm_ge as ogm_ge
from experiments.methods import ogm_opm as ogm_opm
from experiments.methods import opm as opm
from experiments.methods import pmr as pmr
from experiments.methods import pretrained as pretrained
from experiments.methods import reconboost as reconboost
from experiments.methods import relearning as relearning
from experiments.methods import remix as remix
from experiments.methods import smv as smv
from experiments.methods import umt as umt
from experiments.methods import unimodal as unimodal
from experiments.methods import weighted as weighted
