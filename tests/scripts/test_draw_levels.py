from scripts import draw_levels


def test_the_script_draws_the_figure_of_the_readme_and_networks(tmp_path):
    draw_levels.main([str(tmp_path / "block.png")])
    draw_levels.main([str(tmp_path / "network.png"), "--model", "mgic_diffgcn"])
    sizes = [(tmp_path / name).stat().st_size for name in ("block.png", "network.png")]
    assert min(sizes) > 5000
