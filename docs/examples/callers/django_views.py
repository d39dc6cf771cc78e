"""Django views through the blocking facade. Each thread and each forked worker of the server may use the same spec."""

from __future__ import annotations

import json

import msgspec
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import path

from specstar.errors import ResourceNotFoundError
from specstar.sync import SpecStar


class User(msgspec.Struct):
    name: str
    age: int = 0


spec = SpecStar()
users = spec.add_model(User, indexed_fields=["age"])
spec.configure(backend="backend.json")


def create(request: HttpRequest) -> HttpResponse:
    info = users.create(msgspec.convert(json.loads(request.body), User))
    return JsonResponse({"id": info.resource_id}, status=201)


def read(request: HttpRequest, resource_id: str) -> HttpResponse:
    try:
        found = users.get(resource_id)
    except ResourceNotFoundError as error:
        raise Http404 from error
    return JsonResponse({"name": found.data.name, "age": found.data.age})


urlpatterns = [path("users", create), path("users/<str:resource_id>", read)]
