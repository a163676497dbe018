from __future__ import annotations

import pytest

from sampan.api.errors import InvalidArgument
from sampan_runtime_native import channel


@pytest.mark.parametrize(("words", "remedy"), [("refused", "ask for less"), ("refused" * 10_000, "")])
def test_an_error_arrives_and_what_is_too_long_for_a_message_is_cut(words: str, remedy: str) -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        channel.send_error(theirs, InvalidArgument(words, remedy="ask for less"))
        with pytest.raises(InvalidArgument, match="^refused") as caught:
            channel.receive(ours)
    assert caught.value.remedy == remedy
