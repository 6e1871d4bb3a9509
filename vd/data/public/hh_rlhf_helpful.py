"""HH-RLHF (Bai et al. 2022, arXiv 2204.05862), its part on helpfulness."""

from vd.data.public.hh_rlhf import HUB, KIND, LICENCE, REVISION, convert

__all__ = ["HUB", "KIND", "LICENCE", "MIRROR", "OPTIONS", "REVISION", "convert"]

MIRROR = ("hh-rlhf/helpful-base_train.jsonl.gz", "hh-rlhf/helpful-base_test.jsonl.gz")
SIZE = (43_835, 500, 215)  # the prompt with its history
OPTIONS = {"data_dir": "helpful-base"}
