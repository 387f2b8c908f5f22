"""`actrec bench mounting`: skeletons found in pixels are scored again only with the recordings that were rendered."""

import argparse

from benchmarks.perception import Mounting, _file


def test_found_skeletons_of_fewer_recordings_have_another_file(tmp_path) -> None:
    args = [argparse.Namespace(dataset="nucla", pixels=pixels, found=tmp_path) for pixels in (12, 1)]
    twelfth, every = (_file((Mounting(0, -30), "known"), each) for each in args)
    assert twelfth.parent == every.parent == tmp_path and twelfth.name != every.name
