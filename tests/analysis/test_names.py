from sensitivity.analysis.names import at_batch_size, merged, optimizer_name, parameter_name


def test_names_are_those_of_the_field_and_a_users_own_stay():
    assert [optimizer_name(name) for name in ("kfac", "sgd", "mine")] == ["K-FAC", "SGD", "mine"]
    assert [parameter_name(name) for name in ("lr", "damping", "my_knob")] == ["learning rate", "damping", "my knob"]
    assert at_batch_size("kfac", 1024) == "K-FAC, batch size 1,024"


def test_sentences_that_differ_in_the_batch_size_alone_become_one():
    texts = [
        f"{at_batch_size('kfac', 64)}: the budget ends.",
        "Another, alike.",
        f"{at_batch_size('kfac', 256)}: the budget ends.",
        f"{at_batch_size('sgd', 256)}: the budget ends.",
        "Another, alike.",
        f"{at_batch_size('kfac', 1024)}: the budget ends.",
        f"{at_batch_size('kfac', 1024)}: the grid ends.",
    ]
    assert merged(texts) == (
        "K-FAC, batch sizes 64, 256 and 1,024: the budget ends.",
        "Another, alike.",
        "SGD, batch size 256: the budget ends.",
        "K-FAC, batch size 1,024: the grid ends.",
    )
    assert merged([]) == ()
