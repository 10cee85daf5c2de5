//! How many workers serve connections, and which connection sits at which: decisions only, from figures that the caller measured.
//!
//! A wake-up costs more than a small request, and a worker that has several connections to look at is woken once for all of them.
//! So light loads are served by few workers and heavy ones by all. Promises that a load between the two bounds changes nothing,
//! and that a connection keeps its worker unless its leaving makes the fullest one emptier.

/// A worker this busy is helped, as a fraction of its time.
const FULL: f64 = 0.65;
/// Workers that are left may become this busy when one is given up; no further worker is taken for less.
const ROOMY: f64 = 0.4;
/// Looks in a row that must find room before a worker is given up.
const CALM_LOOKS: u32 = 10;
/// A full worker this much busier than another shares its connections anew,
const UNEVEN: f64 = 0.3;
/// when it was so at as many looks in a row.
const UNEVEN_LOOKS: u32 = 5;

/// How many workers serve, as time goes on.
#[derive(Debug)]
pub(super) struct Balance {
    serving: usize,
    calm: u32,
    uneven: u32,
}

impl Balance {
    /// Begins with all workers.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            serving: workers,
            calm: 0,
            uneven: 0,
        }
    }

    /// The first so many workers serve connections.
    pub(super) fn serving(&self) -> usize {
        self.serving
    }

    /// Takes what fraction of the time since the last look each worker was busy; true if connections are to be spread anew.
    pub(super) fn look(&mut self, busy: &[f64]) -> bool {
        let total: f64 = busy.iter().sum();
        let serving = &busy[..self.serving];
        let fullest = serving.iter().copied().fold(0.0, f64::max);
        let emptiest = serving.iter().copied().fold(f64::INFINITY, f64::min);
        let enough = workers_for(total).clamp(1, busy.len());
        if fullest > FULL && self.serving < busy.len() {
            self.serving = enough.max(self.serving + 1);
            (self.calm, self.uneven) = (0, 0);
            return true;
        }
        let has_room = enough < self.serving;
        self.calm = if has_room { self.calm + 1 } else { 0 };
        if self.calm >= CALM_LOOKS {
            self.serving = enough;
            (self.calm, self.uneven) = (0, 0);
            return true;
        }
        let is_uneven = fullest > FULL && fullest - emptiest > UNEVEN;
        self.uneven = if is_uneven { self.uneven + 1 } else { 0 };
        if self.uneven >= UNEVEN_LOOKS {
            self.uneven = 0;
            return true;
        }
        false
    }
}

/// How many workers it takes to do `total` without any being more than roomy.
fn workers_for(total: f64) -> usize {
    (total / ROOMY).ceil() as usize
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sitter {
    /// What it lately had its worker do.
    pub(super) work: u64,
    /// Where it sits.
    pub(super) worker: usize,
}

/// The worker of each connection from now on, among the first `serving`.
pub(super) fn spread(sitters: &[Sitter], serving: usize) -> Vec<usize> {
    let mut places: Vec<usize> = sitters.iter().map(|sitter| sitter.worker).collect();
    let mut loads = vec![Load::default(); serving];
    for sitter in sitters {
        if let Some(load) = loads.get_mut(sitter.worker) {
            load.work += sitter.work;
            load.sitters += 1;
        }
    }
    let total: u64 = sitters.iter().map(|sitter| sitter.work).sum();
    let tolerated = total / serving as u64 / 10;
    // The heaviest first, so that the light ones level what those leave uneven.
    let mut order: Vec<usize> = (0..sitters.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sitters[index].work));
    let is_given_up = |&index: &usize| sitters[index].worker >= serving;
    let (homeless, seated): (Vec<usize>, Vec<usize>) = order.into_iter().partition(is_given_up);
    for index in homeless.into_iter().chain(seated) {
        let Sitter { work, worker } = sitters[index];
        let emptiest = (0..serving).min_by_key(|&it| loads[it]).unwrap_or(0);
        let least = loads[emptiest].work;
        if let Some(load) = loads.get_mut(worker) {
            let gap = load.work - least;
            if work == 0 || gap <= work.max(tolerated) {
                continue;
            }
            load.work -= work;
            load.sitters -= 1;
        }
        places[index] = emptiest;
        loads[emptiest].work += work;
        loads[emptiest].sitters += 1;
    }
    places
}

/// What a worker has been given; the least is the one to give to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    work: u64,
    sitters: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sitter(work: u64, worker: usize) -> Sitter {
        Sitter { work, worker }
    }

    #[test]
    fn a_light_load_leaves_workers_only_once_it_has_been_light_for_a_while() {
        let mut balance = Balance::new(2);
        for look in 1..CALM_LOOKS {
            assert!(!balance.look(&[0.1, 0.2]), "look {look}");
        }
        // One busy moment, and the waiting begins again.
        assert!(!balance.look(&[0.3, 0.3]));
        for _ in 1..CALM_LOOKS {
            assert!(!balance.look(&[0.1, 0.2]));
        }
        assert_eq!(balance.serving(), 2);
        assert!(balance.look(&[0.1, 0.2]));
        assert_eq!(balance.serving(), 1);
        // What two workers did is now done by one, with room: nothing changes any more.
        for _ in 0..100 {
            assert!(!balance.look(&[0.3, 0.01]));
        }
        assert_eq!(balance.serving(), 1);
    }

    #[test]
    fn a_full_worker_is_helped_at_once_and_between_the_bounds_nothing_changes() {
        let mut balance = Balance::new(8);
        for _ in 0..CALM_LOOKS {
            balance.look(&[0.01; 8]);
        }
        assert_eq!(balance.serving(), 1);
        let mut busy = [0.0; 8];
        busy[0] = 0.66;
        assert!(balance.look(&busy));
        assert_eq!(balance.serving(), 2);
        (busy[0], busy[1]) = (1.0, 0.9);
        assert!(balance.look(&busy));
        assert_eq!(balance.serving(), 5, "1.9 workers' work at 0.4 each");
        for _ in 0..100 {
            assert!(!balance.look(&[0.4, 0.4, 0.4, 0.4, 0.3, 0.0, 0.0, 0.0]));
        }
        assert_eq!(balance.serving(), 5);
    }

    #[test]
    fn a_worker_that_stays_fuller_than_another_shares() {
        let mut balance = Balance::new(2);
        for _ in 1..UNEVEN_LOOKS {
            assert!(!balance.look(&[0.9, 0.1]));
        }
        assert!(!balance.look(&[0.7, 0.6]), "it was even once");
        for _ in 1..UNEVEN_LOOKS {
            assert!(!balance.look(&[0.9, 0.1]));
        }
        assert!(balance.look(&[0.9, 0.1]));
        assert_eq!(balance.serving(), 2);
    }

    #[test]
    fn connections_spread_by_their_work_and_stay_where_that_is_as_good() {
        // Every second connection of Java clients only bootstraps: those that work all came to one worker.
        let sitters = [sitter(900, 1), sitter(0, 0), sitter(1000, 1), sitter(0, 0)];
        assert_eq!(spread(&sitters, 2), [1, 0, 0, 0]);
        // Even already.
        let sitters = [sitter(100, 1), sitter(95, 0), sitter(98, 0), sitter(103, 1)];
        assert_eq!(spread(&sitters, 2), [1, 0, 0, 1]);
        // One that does everything helps nobody by moving.
        assert_eq!(spread(&[sitter(5000, 0), sitter(1, 1)], 2), [0, 1]);
        // What would change next to nothing is left.
        assert_eq!(
            spread(&[sitter(990, 0), sitter(20, 0), sitter(980, 1)], 2),
            [0, 0, 1]
        );
        // Help comes: half of them go, or nearly.
        let gone = spread(&[sitter(10, 0); 64], 2).iter().sum::<usize>();
        assert!((30..=32).contains(&gone), "{gone} of 64");
    }

    #[test]
    fn a_worker_that_is_given_up_keeps_nobody() {
        let sitters: Vec<Sitter> = (0..9).map(|index| sitter(0, index % 3)).collect();
        assert_eq!(spread(&sitters, 1), [0; 9]);
        let places = spread(&sitters, 2);
        let at = |worker| places.iter().filter(|&&place| place == worker).count();
        assert_eq!((at(0) + at(1), at(0).abs_diff(at(1))), (9, 1));
        assert_eq!(spread(&[], 2), [0; 0]);
    }
}
