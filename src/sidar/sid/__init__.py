"""Vectors → Semantic IDs: tokenizers, the SID table and its quality report."""

from sidar.sid.codebooks.standin import standin_codebooks
from sidar.sid.sizes import auto_codebook_sizes
from sidar.sid.stage import build
from sidar.sid.table import load_sids, save_sids
from sidar.sid.tokenizer import Tokenizer, load_tokenizer, register_tokenizer
from sidar.sid.tokenizers.acrq import Acrq
from sidar.sid.tokenizers.cqsid import CqSid
from sidar.sid.tokenizers.imported import TableTokenizer
from sidar.sid.tokenizers.random_ids import RandomIds
from sidar.sid.tokenizers.rqkmeans import RqKmeans
from sidar.sid.tokenizers.rqvae import RqVae
from sidar.sid.tokenizers.sarq import Sarq

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
