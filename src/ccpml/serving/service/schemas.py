"""The JSON of requests and responses."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from ccpml.serving.items import Item
from ccpml.serving.service.settings import MAX_K, MAX_WHERE

__all__ = [
    "AddFields",
    "Certified",
    "Drifted",
    "Feedback",
    "Health",
    "Info",
    "Level",
    "Problem",
    "Query",
    "Recorded",
    "Result",
    "SearchFields",
    "SearchHit",
    "StoredItem",
]

_MAX_ID = 2**63 - 1


def _no_flag(value: Any) -> Any:
    """Refuse true and false, which pydantic takes for 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", f"expected a number, got {str(value).lower()}")
    return value


_Number = BeforeValidator(_no_flag)
Id = Annotated[int, Field(ge=1, le=_MAX_ID, description="number of an item", examples=[1]), _Number]


def _in_utf8(value: Any) -> Any:
    """Return a text with its bytes that are not UTF-8 escaped, as names of files may have them."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_in_utf8)]
Scalar = Text | int | float | bool | None


class Problem(BaseModel):
    """An error: one sentence."""

    detail: str = Field(examples=["picture: not an image of a known format, or damaged header"])


class Level(BaseModel):
    """A precision that is certified for answers up to a distance."""

    precision: float
    distance: float


class Certified(BaseModel):
    """What the certificate of the run says, of the nearest hits of a picture."""

    confidence: float = Field(examples=[0.95])
    answers: int = Field(description="number of nearest hits that it is about")
    precisions: list[Level]


class Info(BaseModel):
    """What the service searches, and what it allows."""

    index: str = Field(description="what tells this index from others; a request with it in the header X-Index is sure")
    items: int
    labels: int = Field(description="number of distinct labels")
    embedding_dim: int
    model: Text = Field(description="name of the run, or of those of an ensemble")
    fields: list[Text] = Field(description="columns that a filter can name")
    max_k: int
    max_bytes: int
    max_pictures: int
    certificate: Certified | None
    writable: bool
    needs_token: bool
    examples: list[int] = Field(description="ids of some items")
    feedback: bool
    explain: bool


class StoredItem(BaseModel):
    """A picture of the index."""

    id: int
    label: Text
    name: Text = Field(description="name of its file, without folders")
    metadata: dict[Text, Scalar]
    width: int
    height: int

    @classmethod
    def fields_of(cls, item: Item) -> dict[str, Any]:
        """Return the values for an item."""
        name = item.path.replace("\\", "/").rpartition("/")[2]
        return {
            "id": item.id,
            "label": item.label,
            "name": name,
            "metadata": dict(item.metadata),
            "width": item.width,
            "height": item.height,
        }


class SearchHit(StoredItem):
    """An answer."""

    rank: int
    distance: float = Field(description="Euclidean distance between φ-normalized embeddings, in [0, 2]")
    precision: float | None = Field(description="largest certified precision at this distance")
    duplicate: bool = Field(description="whether it looks like an answer of a better rank")


class Query(BaseModel):
    """What was searched for: an item, or pictures, of which the first is described."""

    id: int | None
    hash: str | None = Field(description="SHA-256 of the first picture; names the query in feedback")
    width: int
    height: int


class Result(BaseModel):
    """The answers to a search."""

    query: Query
    hits: list[SearchHit]
    seconds: float
    answered: bool = Field(description="whether there is a hit within the distance or precision that was asked for")
    note: str


def _no_empty(value: Any) -> Any:
    """Return None for an empty form field."""
    return None if value == "" else value


_Distance = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False), _Number]
_Precision = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), _Number]


class SearchFields(BaseModel):
    """How to search. Fields that are empty are as if they were not there."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[Id | SkipJsonSchema[None], BeforeValidator(_no_empty)] = Field(
        None, description="search by an item of the index"
    )
    k: Annotated[int, Field(ge=1, le=MAX_K), _Number] = Field(20, description="number of hits")
    where: str = Field("", max_length=MAX_WHERE, description="a filter", examples=["label = 'mug' and price < 20"])
    max_distance: Annotated[_Distance | SkipJsonSchema[None], BeforeValidator(_no_empty)] = Field(
        None, description="only hits up to this distance"
    )
    precision: Annotated[_Precision | SkipJsonSchema[None], BeforeValidator(_no_empty)] = Field(
        None, description="only hits within the distance that is certified for this precision"
    )
    hide_duplicates: bool = Field(False, description="leave out hits that look like one of a better rank")


class AddFields(BaseModel):
    """A picture to add."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field("", max_length=200, description="name of its class", examples=["mug"])
    metadata: str = Field("", max_length=10_000, description="a JSON object", examples=['{"price": 12.5}'])


class Feedback(BaseModel):
    """A verdict about a hit of a picture (``query_hash``) or an item (``query_id``)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"oneOf": [{"required": ["query_hash"]}, {"required": ["query_id"]}]}
    )

    query_hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | SkipJsonSchema[None] = Field(
        None, description="`hash` of the query's result"
    )
    query_id: Id | SkipJsonSchema[None] = Field(None, description="the item that was searched for")
    id: Id = Field(description="the hit")
    verdict: Literal["right", "wrong"]


class Recorded(BaseModel):
    """A verdict is on the disk."""

    verdicts: int = Field(description="number of verdicts about answers of this index")


class Drifted(BaseModel):
    """Distances of recent pictures to their nearest items, compared with those within the index."""

    statistic: float | None = Field(
        description="Kolmogorov–Smirnov: largest difference of the distribution functions; null below 50 distances"
    )
    p_value: float | None
    reference: int = Field(description="number of distances within the index")
    recent: int = Field(description="number of recent distances, at most 500")
    drifting: bool = Field(description="whether the p-value is below 0.001")
    searches: int
    unanswered: int = Field(description="searches without a hit within the bounds asked for")


class Health(BaseModel):
    """The state of the service."""

    status: Literal["ready"]
    items: int
    generation: int = Field(description="number of changes of the index")
