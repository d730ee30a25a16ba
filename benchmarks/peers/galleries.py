"""Other ways to keep and search vectors: faiss flat, LanceDB and Milvus Lite, each as its documents use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.sheet import peer

Search = Callable[[NDArray[np.float32]], int]


def faiss_flat(vectors: NDArray[np.float32], folder: Path) -> Search:
    """IndexFlatIP: float32, exact."""
    faiss = peer("faiss", "pip install faiss-cpu")
    index: Any = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return lambda query: int(index.search(query[None], 10)[1][0, 0])


def lancedb(vectors: NDArray[np.float32], folder: Path) -> Search:
    """A table without an index: exact."""
    lance, pa = peer("lancedb", "pip install lancedb"), peer("pyarrow", "pip install pyarrow")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table: Any = lance.connect(str(folder / "lance")).create_table(
        "templates", pa.table({"id": np.arange(len(vectors)), "vector": rows})
    )

    def search(query: NDArray[np.float32]) -> int:
        return int(table.search(query).distance_type("dot").limit(10).to_arrow()["id"][0].as_py())

    return search


def milvus_lite(vectors: NDArray[np.float32], folder: Path) -> Search:
    """A FLAT index: exact."""
    peer("milvus_lite", "pip install pymilvus milvus-lite")
    milvus = peer("pymilvus", "pip install pymilvus milvus-lite")
    kinds: Any = milvus.DataType
    client: Any = milvus.MilvusClient(str(folder / "milvus.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", kinds.INT64, is_primary=True)
    schema.add_field("vector", kinds.FLOAT_VECTOR, dim=vectors.shape[1])
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="IP")
    client.create_collection("templates", schema=schema, index_params=index)
    for start in range(0, len(vectors), 5000):
        part = vectors[start : start + 5000]
        client.insert("templates", [{"id": start + i, "vector": row} for i, row in enumerate(part)])
    return lambda query: int(client.search("templates", [query], limit=10)[0][0]["id"])
