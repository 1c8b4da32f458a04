"""One folder that serves: everything a search needs, checked to belong together.

    bundle/
      manifest.json     kind "bundle"; hashes of the stages that it was made from
      manifest.sha256   its own hash, as `sha256sum -c` reads it
      bundle.json       label, decode settings, example queries, hash of each part
      catalogue/        catalogue.arrow: what cards and filters read, memory-mapped, lineage
      embed/            embedder.json: which encoder made the vectors. Only a model that reads
                        sentence vectors, and reranking, need it to search: then encoder/ is a
                        copy of it, unless it is a packaged one or a hub's (a reference); with
                        `decode.rerank: dense` items.npy
      sid/              SID table, codebooks, tokenizer
      index/            prefix index and rows by SID
      answer/           where the answer is fused: answer.json, BM25, above 100,000 items the index
                        of the dense channel (dual_view.*), the ranker where one is fitted, and
                        memory.parquet, which a day's log updates
      model/            language model, vocabulary, prompt template, text tokenizer

Each part keeps the manifest of the stage that made it, so a bundle can be asked whether its parts
fit, also after someone has exchanged one by hand.
"""

from sidar.serve.bundle.layout import ANSWER
from sidar.serve.bundle.reader import Bundle, open_bundle
from sidar.serve.bundle.writer import BundleSources, build_bundle, write_bundle

__all__ = ["ANSWER", "Bundle", "BundleSources", "build_bundle", "open_bundle", "write_bundle"]
