"""The authority of a lab: what it signs, who may read it, and how a pool's name travels in a certificate."""

import datetime as dt
import json
import stat
from pathlib import Path

import pytest
from beeyard_runtime.security.certificates import PeerName, peer_name_of
from beeyard_runtime.security.certs_command import main
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
IDS = st.text(min_size=1, max_size=40)


@given(pool_id=IDS, worker_id=st.one_of(st.just(""), IDS))
def test_a_name_comes_back_from_its_uri_whatever_is_in_it(pool_id: str, worker_id: str) -> None:
    try:
        name = PeerName(pool_id, worker_id)
        uri = name.uri
    except UnicodeEncodeError:
        return  # half of a surrogate pair is in no id: the wire is UTF-8
    assert uri.isascii()
    assert peer_name_of(uri) == name


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "beeyard://pool",
        "beeyard://pool/",
        "beeyard://pool//worker/w",
        "beeyard://pool/a/worker/",
        "beeyard://pool/a/b",
        "beeyard://pool/a/worker/w/x",
        "beeyard://queen/a",
        "spiffe://pool/a",
        "https://pool/a",
    ],
)
def test_what_is_no_name_of_ours_names_nobody(uri: str) -> None:
    assert peer_name_of(uri) is None


def test_an_authority_signs_for_hosts_and_always_for_loopback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "certs"
    assert main(["init", "--dir", str(folder), "--json"], NOW) == 0
    capsys.readouterr()
    hosts = ["--host", "gpu1.lab", "--host", "10.0.0.7"]
    peer = ["--pool", "gpu1"]
    assert main(["issue", "gpu1", *hosts, *peer, "--dir", str(folder), "--json"], NOW) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["is"] == "beeyard://pool/gpu1"
    leaf = x509.load_pem_x509_certificate(Path(told["cert"]).read_bytes())
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["gpu1.lab", "localhost"]
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["10.0.0.7", "127.0.0.1", "::1"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    # Not longer than browsers take, and never longer than who signed it.
    assert leaf.not_valid_after_utc - NOW == dt.timedelta(days=397)


def test_keys_are_their_owners_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--dir", str(tmp_path)]
    assert main(["init", *where], NOW) == 0
    assert main(["issue", "queen", *where], NOW) == 0
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert {modes["ca.key"], modes["queen.key"]} == {0o600}
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert main(["init", *where], NOW) == 1
    assert main(["issue", "queen", *where], NOW) == 1
    assert "is there already" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    where = ["--dir", str(tmp_path)]
    assert main(["init", "--days", "10", *where], NOW) == 0
    assert main(["issue", "queen", "--days", "100", *where], NOW) == 0
    leaf = x509.load_pem_x509_certificate((tmp_path / "queen.pem").read_bytes())
    assert leaf.not_valid_after_utc - NOW == dt.timedelta(days=10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["issue", "queen"], "beeyard certs init"),
        (["issue", "queen", "--worker", "w"], "--worker needs --pool"),
        (["issue", "ca"], "choose another name"),
    ],
)
def test_what_cannot_be_issued_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([*arguments, "--dir", str(tmp_path)], NOW) == 1
    assert words in capsys.readouterr().err


def test_an_authority_whose_key_is_anothers_signs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        assert main(["init", "--dir", str(folder)], NOW) == 0
    (ours / "ca.key").write_bytes((theirs / "ca.key").read_bytes())
    assert main(["issue", "queen", "--dir", str(ours)], NOW) == 1
    assert "is not the key of ca.pem" in capsys.readouterr().err
    assert not (ours / "queen.pem").exists()


def test_a_renewed_certificate_is_for_the_same_hosts_and_the_same_pool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--dir", str(tmp_path)]
    assert main(["init", *where], NOW) == 0
    assert main(["issue", "gpu1", "--host", "gpu1.lab", "--pool", "gpu 1", *where], NOW) == 0
    cert, key = tmp_path / "gpu1.pem", tmp_path / "gpu1.key"
    old, old_key = x509.load_pem_x509_certificate(cert.read_bytes()), key.read_bytes()
    capsys.readouterr()
    later = NOW + dt.timedelta(days=390)
    assert main(["renew", "gpu1", "--days", "30", "--json", *where], later) == 0
    assert json.loads(capsys.readouterr().out)["is"] == "beeyard://pool/gpu%201"
    new = x509.load_pem_x509_certificate(cert.read_bytes())
    kind = x509.SubjectAlternativeName
    names = [one.extensions.get_extension_for_class(kind).value for one in (old, new)]
    assert names[0] == names[1]
    assert new.not_valid_after_utc == later + dt.timedelta(days=30)
    assert key.read_bytes() != old_key
    assert [stat.S_IMODE(one.stat().st_mode) for one in (cert, key)] == [0o644, 0o600]
    for wrong, words in (("ca", "a new authority"), ("nobody", "not there")):
        assert main(["renew", wrong, *where], later) == 1
        assert words in capsys.readouterr().err
