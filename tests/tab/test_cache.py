"""What the tab's server remembers."""

from keras_layerwise.tab.cache import Cache
from tests.shared.tab_logs import rows


class TestCache:
    def test_it_keeps_to_its_bytes_and_forgets_what_was_used_longest_ago(self):
        cache = Cache(100)
        for name in "abc":
            cache.put(name, rows(name), 33)
        cache.get("a")
        cache.put("d", None, 33)
        assert [cache.get(name) is not None for name in "abc"] == [True, False, True]

    def test_a_value_in_anothers_place_frees_its_bytes(self):
        cache = Cache(100)
        for _ in range(10):
            cache.put("same", 1, 60)
        cache.put("other", 2, 40)
        assert (cache.get("same"), cache.get("other")) == (1, 2)

    def test_what_never_fits_is_not_kept(self):
        cache = Cache(10)
        cache.put("large", 1, 11)
        assert cache.get("large") is None
        cache.put("small", 1, 10)
        assert cache.get("small") == 1
