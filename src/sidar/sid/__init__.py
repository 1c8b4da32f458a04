"""Vectors → Semantic IDs: tokenizers, the SID table and its quality report."""

from sidar.sid.acrq import Acrq
from sidar.sid.cqsid import CqSid
from sidar.sid.imported import TableTokenizer
from sidar.sid.random_ids import RandomIds
from sidar.sid.rqkmeans import RqKmeans
from sidar.sid.rqvae import RqVae
from sidar.sid.sarq import Sarq
from sidar.sid.sizes import auto_codebook_sizes
from sidar.sid.stage import build
from sidar.sid.standin import standin_codebooks
from sidar.sid.table import load_sids, save_sids
from sidar.sid.tokenizer import Tokenizer, load_tokenizer, register_tokenizer

__all__ = [
    "Acrq",
    "CqSid",
    "RandomIds",
    "RqKmeans",
    "RqVae",
    "Sarq",
    "TableTokenizer",
    "Tokenizer",
    "auto_codebook_sizes",
    "build",
    "load_sids",
    "load_tokenizer",
    "register_tokenizer",
    "save_sids",
    "standin_codebooks",
]
