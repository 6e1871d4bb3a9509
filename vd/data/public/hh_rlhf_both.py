"""HH-RLHF (Bai et al. 2022, arXiv 2204.05862), its parts on harmlessness and on helpfulness."""

from vd.data.public.hh_rlhf import HUB, KIND, LICENCE, REVISION, convert
from vd.data.public.hh_rlhf import MIRROR as HARMLESS

__all__ = ["HUB", "KIND", "LICENCE", "MIRROR", "PARTS", "REVISION", "convert"]

PARTS = ("hh-rlhf", "hh-rlhf-helpful")
MIRROR = HARMLESS  # and the other part's
SIZE = (86_372, 500, 200)  # the prompt with its history
