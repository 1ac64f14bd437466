import pyarrow as pa
import pytest

from sensitivity.store.memory import release_memory, returning_memory


def test_arrow_has_its_own_allocator_again_after_the_block():
    before, made = pa.default_memory_pool().backend_name, []

    def stopped():
        with returning_memory():
            assert pa.default_memory_pool().backend_name == "system"
            made.append(pa.table({"x": range(1000)}))
            release_memory()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert pa.default_memory_pool().backend_name == before
    assert made[0]["x"].to_pylist() == list(range(1000)), "what was made in the block outlives it"
