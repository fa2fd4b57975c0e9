from hccvision.grouping import UnionFind, together


def test_joined_numbers_are_one_group_in_order():
    union = UnionFind(6)
    for one, other in ((5, 3), (0, 4), (4, 0), (3, 1)):
        union.join(one, other)
    assert union.groups() == [[0, 4], [1, 3, 5], [2]]
    assert [union.find(i) for i in range(6)] == [0, 1, 2, 1, 0, 1]
    assert UnionFind(0).groups() == together([]) == []


def test_a_long_chain_is_one_group():
    union = UnionFind(5000)
    for i in reversed(range(4999)):
        union.join(i, i + 1)
    assert len(union.groups()) == 1
    assert together([[i, i + 1] for i in range(5000)]) == [list(range(5000))]
