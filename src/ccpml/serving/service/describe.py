"""The OpenAPI description of a service: that of its routes, with its own bounds and its token."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from ccpml.serving.service.settings import ServiceSettings

__all__ = ["describe"]


def describe(app: FastAPI, settings: ServiceSettings) -> dict[str, Any]:
    """Return the description of an application."""
    found: dict[str, Any] = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    for operation in (operation for methods in found["paths"].values() for operation in methods.values()):
        for body in operation.get("requestBody", {}).get("content", {}).values():
            fields = body["schema"].get("properties", {})
            if "k" in fields:
                fields["k"]["maximum"] = settings.max_k
                fields["k"]["default"] = min(fields["k"]["default"], settings.max_k)
            if "maxItems" in fields.get("picture", {}):
                fields["picture"]["maxItems"] = min(fields["picture"]["maxItems"], settings.max_pictures)
    if settings.token is not None:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in found["paths"].items():
            if path != "/health":
                for operation in methods.values():
                    operation["security"] = [{"token": []}]
    return found
