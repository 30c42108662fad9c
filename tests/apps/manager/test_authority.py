"""What a cluster's authority signs for the manager itself."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from hawker.apps.manager.authority import _make
from hawker.apps.manager.jobs.members import RENEWED, _context
from hawker.core.certificates import names_of


def test_the_manager_s_own_certificate_is_no_server_s_and_outlives_its_renewal() -> None:
    shared = _make("eu")
    first, second = (x509.load_pem_x509_certificate(shared.manager_pem()) for _ in range(2))
    first.verify_directly_issued_by(shared.certificate)
    assert names_of(first) == []
    usage = first.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert ExtendedKeyUsageOID.CLIENT_AUTH in usage
    left = first.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left.total_seconds() > 2 * RENEWED
    assert first.public_key() != second.public_key()
    assert _context(shared).get_ca_certs()
