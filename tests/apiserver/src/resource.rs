//! The resources that are served, and the paths they have.

/// A resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Resource {
    /// `v1` services
    Services,
    /// `v1` endpoints
    Endpoints,
    /// `v1` namespaces
    Namespaces,
    /// `v1` nodes
    Nodes,
    /// `v1` pods
    Pods,
    /// `discovery.k8s.io/v1` endpointslices
    EndpointSlices,
    /// `networking.k8s.io/v1` servicecidrs
    ServiceCidrs,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Services,
        Self::Endpoints,
        Self::Namespaces,
        Self::Nodes,
        Self::Pods,
        Self::EndpointSlices,
        Self::ServiceCidrs,
    ];

    /// Plural name, as in paths.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Namespaces => "namespaces",
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::EndpointSlices => "endpointslices",
            Self::ServiceCidrs => "servicecidrs",
        }
    }

    /// `kind` of its objects.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::Endpoints => "Endpoints",
            Self::Namespaces => "Namespace",
            Self::Nodes => "Node",
            Self::Pods => "Pod",
            Self::EndpointSlices => "EndpointSlice",
            Self::ServiceCidrs => "ServiceCIDR",
        }
    }

    /// API group, empty for the core group; all are version v1.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Services | Self::Endpoints | Self::Namespaces | Self::Nodes | Self::Pods => "",
            Self::EndpointSlices => "discovery.k8s.io",
            Self::ServiceCidrs => "networking.k8s.io",
        }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(self) -> String {
        if self.group().is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group()) }
    }

    /// Whether its objects live in namespaces.
    pub const fn namespaced(self) -> bool {
        matches!(self, Self::Services | Self::Endpoints | Self::Pods | Self::EndpointSlices)
    }

    /// The resource whose objects have this kind.
    pub fn of_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.kind() == kind)
    }

    /// The resource of this plural name in a group.
    pub fn named(group: &str, plural: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.group() == group && r.plural() == plural)
    }
}

/// What a path means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// All objects of a resource, perhaps of one namespace.
    Collection(Resource, Option<String>),
    /// One object; the namespace is empty where there is none.
    Object(Resource, String, String),
    /// `POST /apis/authentication.k8s.io/v1/tokenreviews`
    TokenReviews,
    /// Discovery: the groups (`/apis`), the versions (`/api`), or the resources of one group.
    Groups,
    /// See [`Target::Groups`].
    CoreVersions,
    /// See [`Target::Groups`].
    Resources(String),
    /// `/version`, `/livez`, `/readyz`, `/healthz`
    Version,
    /// See [`Target::Version`].
    Health,
    /// Nothing that is served.
    Nothing,
}

impl Target {
    /// Parses a path.
    pub(crate) fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["version"] => return Self::Version,
            ["livez" | "readyz" | "healthz", ..] => return Self::Health,
            ["api"] => return Self::CoreVersions,
            ["apis"] => return Self::Groups,
            ["apis", "authentication.k8s.io", "v1", "tokenreviews"] => return Self::TokenReviews,
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return Self::Nothing,
        };
        let text = |s: &&str| (*s).to_owned();
        let found = match rest {
            [] => return Self::Resources(group.to_owned()),
            [plural] => Resource::named(group, plural).map(|r| Self::Collection(r, None)),
            ["namespaces", name] if group.is_empty() => {
                Some(Self::Object(Resource::Namespaces, String::new(), text(name)))
            }
            ["namespaces", namespace, plural] => Resource::named(group, plural)
                .filter(|r| r.namespaced())
                .map(|r| Self::Collection(r, Some(text(namespace)))),
            ["namespaces", namespace, plural, name] => Resource::named(group, plural)
                .filter(|r| r.namespaced())
                .map(|r| Self::Object(r, text(namespace), text(name))),
            [plural, name] => Resource::named(group, plural)
                .filter(|r| !r.namespaced())
                .map(|r| Self::Object(r, String::new(), text(name))),
            _ => None,
        };
        found.unwrap_or(Self::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_an_api_server() {
        let object =
            |r, namespace: &str, name: &str| Target::Object(r, namespace.to_owned(), name.to_owned());
        assert_eq!(Target::of("/api/v1/services"), Target::Collection(Resource::Services, None));
        assert_eq!(
            Target::of("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"),
            Target::Collection(Resource::EndpointSlices, Some("shop".to_owned()))
        );
        assert_eq!(
            Target::of("/api/v1/namespaces/shop/services/web"),
            object(Resource::Services, "shop", "web")
        );
        assert_eq!(Target::of("/api/v1/namespaces/shop"), object(Resource::Namespaces, "", "shop"));
        assert_eq!(Target::of("/api/v1/nodes/n1"), object(Resource::Nodes, "", "n1"));
        assert_eq!(Target::of("/apis/discovery.k8s.io/v1/services"), Target::Nothing);
        assert_eq!(Target::of("/api/v1/namespaces/shop/nodes"), Target::Nothing);
        assert_eq!(Target::of("/api/v2/services"), Target::Nothing);
    }
}
