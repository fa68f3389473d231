//! How sessions are found: join codes and listings.

use super::*;

impl Table {
    pub(super) fn draw_code(&mut self) -> Result<JoinCode, DirectoryError> {
        (0..limits::CODE_DRAWS_MAX)
            .map(|_| JoinCode::draw(&mut self.random.0))
            .find(|code| !self.codes.contains_key(code))
            .ok_or(DirectoryError::Full {
                what: "join codes",
                max: self.codes.len(),
            })
    }

    /// Gives the session this code and no other.
    pub(super) fn set_code(&mut self, id: SessionId, code: Option<JoinCode>) {
        let Some(Session { record, .. }) = self.sessions.get_mut(&id) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut record.code, code) {
            self.codes.remove(&old);
        }
        self.codes.extend(code.map(|code| (code, id)));
    }

    pub(super) fn list(&mut self, id: SessionId, listing: Listing) {
        self.unlist(id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.record.listing = Some(listing);
        session.listed_until = self.now.after(limits::LISTING_LEASE);
        self.due.insert((session.listed_until, Due::Listing(id)));
        self.listed.insert(id);
    }

    pub(super) fn unlist(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.due.remove(&(session.listed_until, Due::Listing(id)));
        session.record.listing = None;
        self.listed.remove(&id);
    }

    pub(super) fn page(&self, filter: &Filter) -> Result<ListPage, DirectoryError> {
        let page = filter.page()?;
        let start = filter.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut candidates = self
            .listed
            .range((start, Bound::Unbounded))
            .copied()
            .peekable();
        let mut sessions = Vec::new();
        let mut last = None;
        for id in candidates.by_ref().take(limits::LIST_SCAN_MAX) {
            last = Some(id);
            sessions.extend(self.fitting(id, filter));
            if sessions.len() == page {
                break;
            }
        }
        Ok(ListPage {
            sessions,
            next: last.filter(|_| candidates.peek().is_some()),
        })
    }

    /// The session as a list shows it, if it is visible, alive and fits.
    fn fitting(&self, id: SessionId, filter: &Filter) -> Option<Listed> {
        let SessionRecord {
            home_region,
            listing,
            view,
            ..
        } = self.session(id).ok()?;
        let listing = listing.as_ref()?;
        let fits = (filter.unlisted || listing.visibility == Visibility::Public)
            && self.is_live(&view.owner)
            && filter
                .region
                .as_ref()
                .is_none_or(|region| region == home_region)
            && filter
                .app_version
                .as_ref()
                .is_none_or(|version| *version == listing.app_version)
            && listing.open_seats() >= filter.open_seats;
        fits.then(|| Listed {
            id,
            home_region: home_region.clone(),
            listing: listing.clone(),
        })
    }
}
