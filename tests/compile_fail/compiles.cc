// What must compile, so that the others are known to fail for their own reason.
#include "prelude.h"

void use(const ServiceEndpoint& endpoint, const MeshEndpoint& mesh, const RankEndpoint& ranks) {
  (void)endpoint.route(1);
  (void)endpoint.route('a');  // all that is an integer converts
  (void)endpoint.route(u8'a');
  (void)endpoint.route(std::uint8_t{1});
  (void)endpoint.fanout(true);
  (void)endpoint.with({.timeout = std::chrono::seconds(1), .key = "k"}).route(1U);
  (void)mesh.choose(1);
  (void)mesh.call(1);
  (void)mesh.call_one(1);
  mesh.broadcast(1);
  (void)ranks.route(1);
}

void use(const forge::Service& service, const forge::ActorFactory& factory) {
  (void)service.endpoint<char(signed char, unsigned char, char)>("f").route(1, 2, 'c');
  (void)service.endpoint<void(std::string)>("f").route("literal");
  (void)service.endpoint<void(const std::string&)>("f").route(std::string_view("view"));
  (void)service.endpoint<void(std::vector<float>)>("f").route(std::vector<float>{1});
  (void)factory.as_service();
  (void)factory.as_service(1, "text", std::vector<double>{1}, std::string_view("view"));
}
