"""All routes that the page asks beside searching, in one router."""

from __future__ import annotations

from fastapi import APIRouter

from sidar.config.serve import ServeConfig
from sidar.serve.http.access import Access
from sidar.serve.http.bundles import Bundles
from sidar.serve.http.models import ServedModels
from sidar.serve.http.views.catalogue import catalogue_routes, report_routes
from sidar.serve.http.views.comparison import Comparisons, comparison_routes
from sidar.serve.request import Limits


def view_routes(
    served: ServedModels, bundles: Bundles, limits: Limits, config: ServeConfig, access: Access
) -> APIRouter:
    """Return what the views of the page read: the catalogue, comparisons, the report."""
    router = APIRouter()
    router.include_router(catalogue_routes(served, access))
    router.include_router(report_routes(served, access))
    comparisons = Comparisons(served, bundles, limits, config.timeout_ms)
    router.include_router(comparison_routes(comparisons, access))
    return router
