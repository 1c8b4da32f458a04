"""The ESCI sample of the OpenSearch search-relevance files: products with prices, images and
category paths.

``*.ndjson.zip`` (or the unpacked ndjson): bulk-index lines alternate with products.  The product
field ``query_id`` names the judged queries of a product and so gives the judgments away; it is
never read (docs/evaluation.md). Source: amazon-science/esci-data (arXiv 2206.06588), Apache-2.0.
"""

from __future__ import annotations

from sidar.config import CatalogueConfig
from sidar.data.duck import Duck, files
from sidar.data.readers.archive import ZIP, unpack
from sidar.data.readers.json_files import stage_lines
from sidar.data.readers.source import Source, find_files

_FACTS = ("color", "rating", "rating_count", "is_book")


def open_items(duck: Duck, config: CatalogueConfig) -> Source:
    """The products, mapped to contract columns; colour and ratings go to ``attributes``."""
    source, staged = Source(""), []
    for file in find_files(config.path, (".ndjson.zip", ".ndjson"), "ESCI", "catalogue.path"):
        unpacked = [file]
        if file.suffix == ZIP:
            members = unpack(file, duck.work, (".ndjson",), "catalogue.path")
            unpacked = [member.unpacked for member in members]
        staged += [stage_lines(duck, plain, source, named=file) for plain in unpacked]
    facts = ", ".join(f"{fact}: line -> '$.{fact}'" for fact in _FACTS)
    source.sql = f"""
        SELECT {_text("asin")} AS item_id, {_text("title")} AS title,
            concat_ws(' ', {_text("bullet_points")}, {_text("description")}) AS text,
            (line -> '$.category')::VARCHAR AS category, {_text("brand")} AS brand,
            {_text("price")} AS price,
            {_text("image")} AS image_url, NULL::VARCHAR AS in_stock, NULL::VARCHAR AS created,
            to_json({{{facts}}})::VARCHAR AS attributes, file, place
        FROM read_parquet({files(staged)})
        WHERE {_text("asin")} IS NOT NULL OR {_text("title")} IS NOT NULL"""
    return source


def _text(path: str) -> str:
    return f"json_extract_string(line, '$.{path}')"
