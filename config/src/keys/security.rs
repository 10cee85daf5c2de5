//! Keys of authentication, encryption and authorisation.

use crate::key::Valid::{Any, AtLeast, Between, OneOf, OneOfIgnoreCase};
use crate::key::keys;
use crate::keys::reasons::{ACLS, AUTHORIZER, JVM, KERBEROS, OAUTH, PLUGINS, SASL, TLS, TOKENS};

keys! { SECURITY: Broker;
    /// Class that decides what a principal may do.
    "authorizer.class.name": String = "", Any, ReadOnly, AUTHORIZER;
    /// Principals, separated by semicolons, that may do everything.
    "super.users": String = -, Any, ReadOnly, ACLS;
    /// Whether a resource without any ACL is open to everybody.
    "allow.everyone.if.no.acl.found": Boolean = "false", Any, ReadOnly, ACLS;
    /// Class that turns an authenticated connection into a principal.
    "principal.builder.class": Class = "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder",
        Any, PerBroker, PLUGINS;
    /// Java classes that bring security algorithms.
    "security.providers": String = -, Any, ReadOnly, JVM;
    /// After how long a SASL connection has to authenticate again; 0 never.
    "connections.max.reauth.ms": Long = "0", Any, ReadOnly, SASL;
    /// SASL mechanisms that a listener offers.
    "sasl.enabled.mechanisms": List = "GSSAPI", Any, PerBroker, SASL;
    /// SASL mechanism among brokers.
    "sasl.mechanism.inter.broker.protocol": String = "GSSAPI", Any, PerBroker, SASL;
    /// SASL mechanism towards controllers.
    "sasl.mechanism.controller.protocol": String = "GSSAPI", Any, ReadOnly, SASL;
    /// Login module with its options, in JAAS form.
    "sasl.jaas.config": Password = -, Any, PerBroker, SASL;
    /// Class that answers the server side of a SASL mechanism.
    "sasl.server.callback.handler.class": Class = -, Any, ReadOnly, PLUGINS;
    /// Class that answers the client side of a SASL mechanism.
    "sasl.client.callback.handler.class": Class = -, Any, ReadOnly, PLUGINS;
    /// Class that provides credentials at login.
    "sasl.login.callback.handler.class": Class = -, Any, ReadOnly, PLUGINS;
    /// Class that performs the login.
    "sasl.login.class": Class = -, Any, ReadOnly, PLUGINS;
    /// Largest message while a SASL exchange is going on.
    "sasl.server.max.receive.size": Int = "524288", Any, ReadOnly, SASL;
    /// Connection timeout towards the provider of tokens.
    "sasl.login.connect.timeout.ms": Int = -, Any, ReadOnly, OAUTH;
    /// Read timeout towards the provider of tokens.
    "sasl.login.read.timeout.ms": Int = -, Any, ReadOnly, OAUTH;
    /// First pause before a failed login is repeated.
    "sasl.login.retry.backoff.ms": Long = "100", Any, ReadOnly, OAUTH;
    /// Longest pause before a failed login is repeated.
    "sasl.login.retry.backoff.max.ms": Long = "10000", Any, ReadOnly, OAUTH;
    /// Share of a credential's life after which it is renewed.
    "sasl.login.refresh.window.factor": Double = "0.8", Any, PerBroker, OAUTH;
    /// Random part of the moment of renewal.
    "sasl.login.refresh.window.jitter": Double = "0.05", Any, PerBroker, OAUTH;
    /// Least time between two renewals of a credential.
    "sasl.login.refresh.min.period.seconds": Short = "60", Any, PerBroker, OAUTH;
    /// Time before expiry that a renewal should leave.
    "sasl.login.refresh.buffer.seconds": Short = "300", Any, PerBroker, OAUTH;
    /// Kerberos name that brokers run as.
    "sasl.kerberos.service.name": String = -, Any, PerBroker, KERBEROS;
    /// Path of kinit.
    "sasl.kerberos.kinit.cmd": String = "/usr/bin/kinit", Any, PerBroker, KERBEROS;
    /// Share of a ticket's life after which it is renewed.
    "sasl.kerberos.ticket.renew.window.factor": Double = "0.8", Any, PerBroker, KERBEROS;
    /// Random part of the moment of a ticket's renewal.
    "sasl.kerberos.ticket.renew.jitter": Double = "0.05", Any, PerBroker, KERBEROS;
    /// Least time between two attempts to renew a ticket.
    "sasl.kerberos.min.time.before.relogin": Long = "60000", Any, PerBroker, KERBEROS;
    /// Rules that map Kerberos principals to short names.
    "sasl.kerberos.principal.to.local.rules": List = "DEFAULT", Any, PerBroker, KERBEROS;
    /// Where tokens are requested.
    "sasl.oauthbearer.token.endpoint.url": String = -, Any, ReadOnly, OAUTH;
    /// Scope that is asked for with a token.
    "sasl.oauthbearer.scope": String = -, Any, ReadOnly, OAUTH;
    /// Client id for requesting tokens.
    "sasl.oauthbearer.client.credentials.client.id": String = -, Any, ReadOnly, OAUTH;
    /// Client secret for requesting tokens.
    "sasl.oauthbearer.client.credentials.client.secret": Password = -, Any, ReadOnly, OAUTH;
    /// Class that obtains tokens.
    "sasl.oauthbearer.jwt.retriever.class": Class = "org.apache.kafka.common.security.oauthbearer.DefaultJwtRetriever",
        Any, ReadOnly, PLUGINS;
    /// Class that checks tokens.
    "sasl.oauthbearer.jwt.validator.class": Class = "org.apache.kafka.common.security.oauthbearer.DefaultJwtValidator",
        Any, ReadOnly, PLUGINS;
    /// Claim that carries the scope.
    "sasl.oauthbearer.scope.claim.name": String = "scope", Any, ReadOnly, OAUTH;
    /// Claim that carries the subject.
    "sasl.oauthbearer.sub.claim.name": String = "sub", Any, ReadOnly, OAUTH;
    /// Where the keys that sign tokens are published.
    "sasl.oauthbearer.jwks.endpoint.url": String = -, Any, ReadOnly, OAUTH;
    /// How often the signing keys are fetched again.
    "sasl.oauthbearer.jwks.endpoint.refresh.ms": Long = "3600000", Any, ReadOnly, OAUTH;
    /// First pause before a failed fetch of the signing keys is repeated.
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms": Long = "100", Any, ReadOnly, OAUTH;
    /// Longest pause before a failed fetch of the signing keys is repeated.
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms": Long = "10000", Any, ReadOnly, OAUTH;
    /// Difference of clocks that the check of a token forgives.
    "sasl.oauthbearer.clock.skew.seconds": Int = "30", Any, ReadOnly, OAUTH;
    /// Audiences of which a token has to name one.
    "sasl.oauthbearer.expected.audience": List = "", Any, ReadOnly, OAUTH;
    /// Issuer that a token has to come from.
    "sasl.oauthbearer.expected.issuer": String = -, Any, ReadOnly, OAUTH;
    /// Algorithm that signs a client assertion.
    "sasl.oauthbearer.assertion.algorithm": String = "RS256",
        OneOfIgnoreCase(&["ES256", "RS256"]), ReadOnly, OAUTH;
    /// Audience of a client assertion.
    "sasl.oauthbearer.assertion.claim.aud": String = -, Any, ReadOnly, OAUTH;
    /// Seconds until a client assertion expires.
    "sasl.oauthbearer.assertion.claim.exp.seconds": Int = "300", Between(0, 86_400), ReadOnly, OAUTH;
    /// Issuer of a client assertion.
    "sasl.oauthbearer.assertion.claim.iss": String = -, Any, ReadOnly, OAUTH;
    /// Whether a client assertion carries an id of its own.
    "sasl.oauthbearer.assertion.claim.jti.include": Boolean = "false", Any, ReadOnly, OAUTH;
    /// Seconds before now from which a client assertion is valid.
    "sasl.oauthbearer.assertion.claim.nbf.seconds": Int = "60", Between(0, 3600), ReadOnly, OAUTH;
    /// Subject of a client assertion.
    "sasl.oauthbearer.assertion.claim.sub": String = -, Any, ReadOnly, OAUTH;
    /// File with a ready-made client assertion.
    "sasl.oauthbearer.assertion.file": String = -, Any, ReadOnly, OAUTH;
    /// Private key that signs client assertions.
    "sasl.oauthbearer.assertion.private.key.file": String = -, Any, ReadOnly, OAUTH;
    /// Passphrase of the private key that signs client assertions.
    "sasl.oauthbearer.assertion.private.key.passphrase": Password = -, Any, ReadOnly, OAUTH;
    /// File with the fixed parts of client assertions.
    "sasl.oauthbearer.assertion.template.file": String = -, Any, ReadOnly, OAUTH;
    /// TLS version that a context is made with.
    "ssl.protocol": String = "TLSv1.3", Any, PerBroker, TLS;
    /// TLS versions that a listener accepts.
    "ssl.enabled.protocols": List = "TLSv1.2,TLSv1.3", Any, PerBroker, TLS;
    /// Cipher suites that a listener accepts; empty means the usual ones.
    "ssl.cipher.suites": List = "", Any, PerBroker, TLS;
    /// Whether clients have to show a certificate.
    "ssl.client.auth": String = "none", OneOf(&["required", "requested", "none"]), PerBroker, TLS;
    /// Format of the key store: PEM, PKCS12 or JKS.
    "ssl.keystore.type": String = "JKS", Any, PerBroker, TLS;
    /// File of the key store.
    "ssl.keystore.location": String = -, Any, PerBroker, TLS;
    /// Password of the key store.
    "ssl.keystore.password": Password = -, Any, PerBroker, TLS;
    /// Private key in PEM form.
    "ssl.keystore.key": Password = -, Any, PerBroker, TLS;
    /// Certificate chain in PEM form.
    "ssl.keystore.certificate.chain": Password = -, Any, PerBroker, TLS;
    /// Password of the private key.
    "ssl.key.password": Password = -, Any, PerBroker, TLS;
    /// Format of the trust store: PEM, PKCS12 or JKS.
    "ssl.truststore.type": String = "JKS", Any, PerBroker, TLS;
    /// File of the trust store.
    "ssl.truststore.location": String = -, Any, PerBroker, TLS;
    /// Password of the trust store.
    "ssl.truststore.password": Password = -, Any, PerBroker, TLS;
    /// Trusted certificates in PEM form.
    "ssl.truststore.certificates": Password = -, Any, PerBroker, TLS;
    /// How a server's name is checked against its certificate; empty switches the check off.
    "ssl.endpoint.identification.algorithm": String = "https", Any, PerBroker, TLS;
    /// Rules that map a certificate's subject to a principal's name.
    "ssl.principal.mapping.rules": String = "DEFAULT", Any, ReadOnly, TLS;
    /// Whether a new key store may carry another subject.
    "ssl.allow.dn.changes": Boolean = "false", Any, ReadOnly, TLS;
    /// Whether a new key store may carry other alternative names.
    "ssl.allow.san.changes": Boolean = "false", Any, ReadOnly, TLS;
    /// Java algorithm of the key manager.
    "ssl.keymanager.algorithm": String = "SunX509", Any, PerBroker, JVM;
    /// Java algorithm of the trust manager.
    "ssl.trustmanager.algorithm": String = "PKIX", Any, PerBroker, JVM;
    /// Java provider of TLS.
    "ssl.provider": String = -, Any, PerBroker, JVM;
    /// Java source of random numbers.
    "ssl.secure.random.implementation": String = -, Any, PerBroker, JVM;
    /// Java class that makes TLS engines.
    "ssl.engine.factory.class": Class = -, Any, PerBroker, JVM;
    /// Secret that signs delegation tokens; the same on every node.
    "delegation.token.secret.key": Password = -, Any, ReadOnly, TOKENS;
    /// Longest life of a delegation token, renewals included.
    "delegation.token.max.lifetime.ms": Long = "604800000", AtLeast(1), ReadOnly, TOKENS;
    /// Time after which a delegation token has to be renewed.
    "delegation.token.expiry.time.ms": Long = "86400000", AtLeast(1), ReadOnly, TOKENS;
    /// How often expired delegation tokens are removed.
    "delegation.token.expiry.check.interval.ms": Long = "3600000", AtLeast(1), ReadOnly, TOKENS;
}
