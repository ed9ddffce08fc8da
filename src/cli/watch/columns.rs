//! Columns of a table: each takes what it needs, and where there is not enough room the least important give way. Numbers
//! are shown whole or not at all.

/// What a column needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    /// The less, the more important.
    pub(super) rank: usize,
    /// The least that makes sense.
    pub(super) least: usize,
    /// What all of it takes.
    pub(super) whole: usize,
}

/// Between two columns.
pub(super) const GAP: usize = 1;

/// The width of each column in `room`; `None`: it is not shown. The most important one always is.
pub(super) fn fit(needs: &[Option<Need>], room: usize) -> Vec<Option<usize>> {
    let mut shown: Vec<Option<Need>> = needs.to_vec();
    let taken = |shown: &[Option<Need>]| {
        let widths = shown.iter().flatten().map(|need| need.least.min(need.whole));
        widths.clone().sum::<usize>() + widths.count().saturating_sub(1) * GAP
    };
    while taken(&shown) > room && shown.iter().flatten().count() > 1 {
        let last = shown.iter().flatten().map(|need| need.rank).max();
        for need in &mut shown {
            if need.is_some_and(|need| Some(need.rank) == last) {
                *need = None;
            }
        }
    }
    let mut left = room.saturating_sub(taken(&shown));
    let mut widths: Vec<Option<usize>> =
        shown.iter().map(|need| need.map(|need| need.least.min(need.whole).min(room))).collect();
    let mut by_rank: Vec<(usize, Need)> =
        shown.iter().enumerate().filter_map(|(place, need)| Some((place, (*need)?))).collect();
    by_rank.sort_by_key(|(_, need)| need.rank);
    for (place, need) in by_rank {
        if let Some(Some(width)) = widths.get_mut(place) {
            let more = need.whole.saturating_sub(*width).min(left);
            *width += more;
            left -= more;
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_give_way() {
        let need = |rank, least, whole| Some(Need { rank, least, whole });
        let needs = [need(0, 8, 20), need(1, 10, 10), None, need(3, 5, 5), need(2, 6, 30)];
        assert_eq!(fit(&needs, 200), [Some(20), Some(10), None, Some(5), Some(30)]);
        assert_eq!(fit(&needs, 40), [Some(16), Some(10), None, Some(5), Some(6)]);
        // A number is never clipped: it goes.
        assert_eq!(fit(&needs, 30), [Some(12), Some(10), None, None, Some(6)]);
        assert_eq!(fit(&needs, 20), [Some(9), Some(10), None, None, None]);
        assert_eq!(fit(&needs, 5), [Some(5), None, None, None, None]);
    }
}
