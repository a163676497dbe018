from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.errors import InvalidArgument
from sampan.content import references

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("text", "long", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("me/app:v1", "docker.io/me/app:v1", "me/app:v1"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
        ("example.com/a__b/c-d.e", "example.com/a__b/c-d.e:latest", "example.com/a__b/c-d.e:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        (f"busybox@sha256:{HEX}", f"docker.io/library/busybox@sha256:{HEX}", f"busybox@sha256:{HEX}"),
        (f"a:b@sha256:{HEX}", f"docker.io/library/a:b@sha256:{HEX}", f"a:b@sha256:{HEX}"),
    ],
)
def test_forms(text, long, familiar):
    reference = references.parse(text)
    assert str(reference) == long
    assert reference.familiar == familiar == references.familiar(long)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
        ("me/Foo:x", "invalid reference format: repository name (me/Foo) must be lowercase"),
        ("", "invalid reference format"),
        (":tag", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a:tag\n", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("../a", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        ("a@sha256:abc", "invalid reference format"),
        (f"a@sha512:{HEX}", "unsupported digest algorithm: only sha256 is known here"),
        (f"a@sha256:{HEX[:-2]}", "invalid checksum digest length"),
        ("a" * 256, "repository name must not be more than 255 characters"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
    ],
)
def test_refusals_say_what_docker_says(text, message):
    with pytest.raises(InvalidArgument) as caught:
        references.parse(text)
    assert str(caught.value) == message


def test_no_tag_is_added_on_request():
    assert str(references.parse_exact("a")) == "docker.io/library/a"


@given(st.text(alphabet="abA0./:@_-sha256 \n", max_size=40))
def test_the_long_form_is_stable(text):
    try:
        reference = references.parse(text)
    except InvalidArgument:
        return
    assert references.parse(str(reference)) == reference == references.parse(reference.familiar)
